"""What every part may use: errors, logging, files, interrupts, several processes. Knows nothing of learning."""
