"""The gRPC layer: protos to plain values and back, errors to status codes."""
