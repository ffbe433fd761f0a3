"""The version of this distribution, written into every record as `tool_version`."""

VERSION = "0.1.0"
