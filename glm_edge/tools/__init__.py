"""What is done with a model besides answering: verifying, measuring, comparing."""
