"""The version of gptlab, for all files that write it down."""

VERSION = "0.2.0"
