"""The files that Weights & Biases writes where nothing is sent."""

import struct


def wandb_records(content):
    """Return the records of a file of Weights & Biases: LevelDB's log format after a header of 7 bytes."""
    block, header, position, record = 32768, struct.Struct("<IHB"), 7, b""
    while position + header.size <= len(content):
        if block - position % block < header.size:
            position += block - position % block
            continue
        _, length, kind = header.unpack_from(content, position)
        position += header.size
        record += content[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""
