"""The Keras models and how they are trained."""
