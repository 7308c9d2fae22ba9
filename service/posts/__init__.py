"""Posts as exporters write them: files found and opened, columns chosen by their names, cells read.

Training and scoring stand on it.
"""
