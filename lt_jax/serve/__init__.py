"""What a finished run and a data set are used for: predict, export, show_data."""
