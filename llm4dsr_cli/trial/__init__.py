"""Whether cleaning helps the recommenders that come after, tried on the user's own sequences."""
