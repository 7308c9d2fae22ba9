"""What callers of the headline popularity service need: `headlines.client`, and the protos in `headlines.v1`."""
