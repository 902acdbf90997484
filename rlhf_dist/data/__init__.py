"""From files and hub names to tokens: prompts, demonstrations and comparisons, and the order they are drawn in."""
