"""Generate short messages, half of them spam: small labelled data without a network."""

import random
from collections.abc import Sequence

NUMBER = 2400  # of messages
TYPOS = 0.25  # the share of messages with a mistake in their spelling

SLOTS: dict[str, Sequence[str]] = {
    "name": ("Anna", "Ben", "Chris", "Dana", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jo", "Kim", "Leo", "Mia", "Noor"),
    "time": ("tonight", "tomorrow", "on Friday", "at 6", "after work", "next week", "this morning", "in an hour"),
    "place": ("the station", "the library", "the office", "school", "the cinema", "the gym", "the market", "home"),
    "thing": ("the keys", "the tickets", "the report", "the rent", "the party", "the exam", "the car", "dinner"),
    "prize": ("a holiday", "a phone", "500 pounds", "a gift card", "two tickets", "a hamper", "a new car"),
    "account": ("bank account", "parcel", "phone contract", "insurance", "card", "mailbox", "tax refund", "loan"),
    "sender": ("the bank", "the post office", "your network", "the clinic", "the shop", "customer service"),
    "feeling": ("happy", "tired", "late", "sorry", "excited", "worried", "hungry", "free"),
}
OPENINGS = ("", "", "", "Hi, ", "Hello {name}, ", "Hey! ", "Dear {name}, ", "Ok, ", "Good news! ", "Urgent: ")
CLOSINGS = ("", "", "", " Thanks", " Call me on {phone}", " Text {phone}", " See you {time}", " Reply soon", " xx")
BODIES: dict[str, Sequence[str]] = {
    "ham": (
        "are you coming to {place} {time}?",
        "i left {thing} at {place}, can you bring it {time}?",
        "{sender} called about my {account}, i will go there {time}.",
        "i won {prize} at the school fair, i am so {feeling}!",
        "can you call me when you are free? It is about {thing}.",
        "my new number is {phone}, the old one stops {time}.",
        "did {name} tell you about {prize}? We should claim it together {time}.",
        "the code for the door at {place} is {code}.",
        "{sender} locked my {account} again, what a day.",
        "do not reply to that text about your {account}, it was spam.",
        "i am {feeling}, let us meet at {place} {time}.",
        "{name} wants {prize} for her birthday, any idea?",
        "your {account} came to my house, should i bring it to {place}?",
        "we get a free drink at {place} {time}, are you in?",
        "i have to pay {amount} for {thing}, can you lend me some until {time}?",
        "{sender} says that the offer ends {time}, should we buy it?",
    ),
    "spam": (
        "you have won {prize}! Call {phone} {time} to claim it.",
        "your {account} is locked. Confirm the code {code} with {sender} {time}.",
        "{sender} tried to deliver your {account}. Pay {amount} to get it {time}.",
        "it is {name}, i lost my phone. This is my new number, send {amount} {time}.",
        "we are {feeling} to offer you {prize} for {amount}. The offer ends {time}.",
        "you are chosen for {prize}. Reply with the code {code} {time}.",
        "last chance: claim {prize} at {place} {time}, only {amount}.",
        "someone is {feeling} to meet you {time}! Text {code} to {phone}, {amount} a message.",
        "{name} has sent you {prize}. Call {phone} to hear the message.",
        "your {account} gets you {amount} back. Answer {sender} {time} to claim.",
        "are you free {time}? Earn {amount} a day from home, text {code}.",
        "this is {sender}: pay {amount} for {thing} {time} or your {account} ends.",
        "{prize} waits for you at {place}. Bring the code {code} {time}.",
        "can you call {phone} {time}? It is about your {account} and {amount}.",
        "i left {prize} for you, {name}. Claim it {time} with code {code}.",
        "did you know that {sender} owes you {amount}? Call {phone} {time}.",
    ),
}


def about_anything(number: int = NUMBER) -> list[dict[str, str]]:
    """Return `{"text", "label"}` of as many messages, ham and spam in turn; always the same ones."""
    drawn = random.Random("messages")
    labels = [list(BODIES)[i % len(BODIES)] for i in range(number)]
    return [{"text": _message(drawn, label), "label": label} for label in labels]


def _message(drawn: random.Random, label: str) -> str:
    """Return a message of a kind: an opening, what it says, and a closing, with the blanks filled in."""
    text = "".join(drawn.choice(part) for part in (OPENINGS, BODIES[label], CLOSINGS))
    filled = {name: drawn.choice(choices) for name, choices in SLOTS.items()}
    phone, code, amount = drawn.randrange(10**7), drawn.randrange(10**4), drawn.choice((3, 5, 10, 20, 50, 100, 250))
    text = text.format(**filled, phone=f"07{phone:07}", code=f"{code:04}", amount=f"{amount} pounds")
    text = text[0].upper() + text[1:]
    return _misspelled(drawn, text) if drawn.random() < TYPOS else text


def _misspelled(drawn: random.Random, text: str) -> str:
    """Return a text without one of its characters, or with two of them in the other order."""
    at = drawn.randrange(1, len(text) - 2)
    return text[:at] + (text[at + 1 :] if drawn.random() < 0.5 else text[at + 1] + text[at] + text[at + 2 :])
