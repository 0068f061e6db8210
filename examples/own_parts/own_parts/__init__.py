"""Parts of my own: gptlab imports every module here that registers one."""
