"""Applications of a finished run or a data set: predict, export, show_data."""
