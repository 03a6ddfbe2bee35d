"""Building base images: recipe → kernel, initial file system and root file system."""
