"""Tables and arrays of any kind, read into a `Schema` and a `Panel`."""
