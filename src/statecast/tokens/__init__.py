"""The forecaster of tokens."""
