"""Files of headlines to files of scores, without a server."""
