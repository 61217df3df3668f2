"""Pictures and pages: what a run saw, hid and learned, as PNG, GIF, MP4 and one HTML page."""
