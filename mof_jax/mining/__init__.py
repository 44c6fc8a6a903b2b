"""Embeddings of whole sources on disk, and the pairs of pictures that one encoder confuses and another tells apart."""
