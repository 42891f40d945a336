"""Trained models in use: from Python, over HTTP and Arrow, on a web page, and as a Ray Serve application."""
