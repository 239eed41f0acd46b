"""Tests that the XML of a store takes little memory, whatever is in it."""

from __future__ import annotations

import io
import tracemalloc
from xml.etree import ElementTree as ET

import pytest
import urllib3

from agent.adapters.store.xml_documents import children, text_of, xml
from agent.model.errors import CloudError

MIB = 1024 * 1024
SIZE = 4 * MIB

HOSTILE = {
    "nested": b"<a>" * (SIZE // 3),
    "elements": b"<r>" + b"<a/>" * (SIZE // 4) + b"</r>",
    "attributes": b"<r " + b" ".join(b'a%x=""' % number for number in range(SIZE // 10)) + b"/>",
    "names": b"<r>" + b"".join(b"<a%x/>" % number for number in range(SIZE // 9)) + b"</r>",
    "lines": b"<r>" + b"x\n" * (SIZE // 2) + b"</r>",
    "references": b"<r>" + b"&lt;" * (SIZE // 4) + b"</r>",
    "utf-16": ("<a>" * (SIZE // 6)).encode("utf-16"),
}


def parsed(document: bytes) -> ET.Element:
    answer = urllib3.HTTPResponse(io.BytesIO(document), status=200, decode_content=False)
    assert len(answer.data) == len(document)
    return xml(answer, "ListParts")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_takes_little_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CloudError) as raised:
            parsed(HOSTILE[kind])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.code == "InvalidResponse"
    assert peak < 20 * MIB


def test_a_page_of_a_thousand_keys_with_all_that_a_store_may_say_is_read() -> None:
    fields = ["Key", "ETag", "Size", "StorageClass", "ChecksumAlgorithm", "ChecksumType", "Date"]
    person = "<Owner>\n<ID>1</ID>\n<DisplayName>a</DisplayName>\n</Owner>\n"
    item = "".join(f"<{field}>&quot;x==&quot;</{field}>\n" for field in fields)
    page = f"<List>\n{f'<Contents>{person * 2}{item}</Contents>' * 1000}</List>"
    found = children(parsed(page.encode()), "Contents")
    assert len(found) == 1000
    assert text_of(found[0], "Key") == '"x=="'
