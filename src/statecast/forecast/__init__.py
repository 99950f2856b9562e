"""The forecaster of numbers."""
