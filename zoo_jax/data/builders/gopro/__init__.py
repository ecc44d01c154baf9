"""GoPro from the folders of GOPRO_Large."""
