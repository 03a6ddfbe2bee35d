"""What both ends of Apple's device protocols share: framing, and nothing of what is said in the frames."""
