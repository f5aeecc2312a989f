"""Pictures found and decoded: folders, lists, archives, downloads, splits."""
