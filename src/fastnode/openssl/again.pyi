from fastnode.openssl.handle import Handle
from fastnode.openssl.verdict import Verdict

def judge_again(pairs: list[tuple[Handle, tuple[bytes, ...]]]) -> list[Verdict]: ...
