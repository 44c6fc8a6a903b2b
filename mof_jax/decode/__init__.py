"""From a model to text: sampling rules, and generation with a key-value cache."""
