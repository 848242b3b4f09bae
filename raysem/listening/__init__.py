"""The listening test: a blind page on which people compare two models' tags, and the score of their answers."""
