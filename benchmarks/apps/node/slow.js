// A module that takes a second to load, as big apps do: it blocks, like a slow import.
'use strict';
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
