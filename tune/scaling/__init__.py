"""Dataset-size studies: `scale.scale` is the command, `cells` are its runs, `laws` what it fits to them."""
