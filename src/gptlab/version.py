"""Define the version of gptlab once."""

VERSION = "0.2.0"
