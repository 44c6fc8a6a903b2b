"""Words: captions, chats, tokenizers and their vocabularies."""
