"""A graph with float functions between quantizers in, one of quantizers and tables out."""
