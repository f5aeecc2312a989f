"""Pictures found and decoded: folders, lists, archives, downloads, splits. Imports runtime and config."""
