"""What a trio is: its manifest, and those that are part of the package."""
