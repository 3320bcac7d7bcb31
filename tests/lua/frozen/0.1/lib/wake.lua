-- The wake marker: an envelope of its own kind that wakes one blocked worker and is never delivered.
local wake = '\0PQ\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\128\0\0\0\0\0\0'
