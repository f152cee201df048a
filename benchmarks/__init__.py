"""`make bench`: what the README claims, measured side by side in one run. Not installed."""
