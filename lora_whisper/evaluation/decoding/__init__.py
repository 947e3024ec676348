"""From sound to text: utterances through a decoder, long recordings, and a cache."""
