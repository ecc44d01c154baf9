"""Need for Speed: sharp frames of 240 per second, blurred here."""
