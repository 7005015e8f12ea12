"""The models kept in step, and the loop that makes tokens."""
