"""Answers predictions: from a headline to two scores, over gRPC or as a library."""
