"""What can go wrong in a conversion, as a tree of its own (this package knows no runtime).

ConversionError
├── CheckpointError            the folder, its config.json or its shards do not hold together
├── UnknownArchitectureError   config.json names a model class nobody here can convert
├── TokenizerError             tokenizer files are missing, unreadable or not expressible in GGUF
├── TargetError                the file can't be written
└── MissingDependencyError     an optional package is needed and not installed

Every message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class ConversionError(Exception):
    """A checkpoint can't become a GGUF file."""


class CheckpointError(ConversionError):
    """The folder is not a checkpoint, or its files contradict each other."""


class UnknownArchitectureError(ConversionError):
    """No converter for the model class that config.json names."""


class TokenizerError(ConversionError):
    """The tokenizer files can't be read, or GGUF has no words for them."""


class TargetError(ConversionError):
    """The target can't be written: no permission, no room, or it is in the way."""


class MissingDependencyError(ConversionError):
    """An optional package is needed for this checkpoint."""
