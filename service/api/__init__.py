"""The gRPC face: protos to plain values and back, errors to status codes."""
