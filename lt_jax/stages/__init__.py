"""What is trained in which order. A stage reads files of the work directory and leaves files there."""
