"""The camera-shake benchmark of Koehler and others from its pictures."""
