"""Files, images, image headers and processes: everything that touches the machine."""
