"""Text on its way in and out of the model: prompts, token ids, trimming, and the text of an answer."""
