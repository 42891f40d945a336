"""What is measured beside the split itself, a file for each study."""
