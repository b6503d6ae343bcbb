"""Small real programs and helpers the tests stand on."""
