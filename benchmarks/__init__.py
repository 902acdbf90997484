"""What is measured rather than tested. Each file is a command of its own."""
