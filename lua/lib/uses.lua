-- Marks the state with what the queue uses from now on: 4 priority, 16 dedupe keys and groups, 32 rate, 64 caps,
-- 128 groups, 256 settings. Version 2 of the state: scripts that know none of these leave such a queue alone.
local function uses(feature)
  if bit.band(flags, feature) == 0 then
    flags, version = flags + feature, 2
  end
end
