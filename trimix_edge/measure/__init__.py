"""What models cost and how well they do: measured, not guessed."""
