"""Pages of HTML that show what training left behind: one file each, readable without a network."""
