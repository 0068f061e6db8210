"""The people, words and plots of the stories that `stories` tells: raise its VERSION whenever one of them changes."""

from typing import NamedTuple


class Person(NamedTuple):
    """Somebody in a story."""

    name: str
    kind: str  # as a story introduces it: girl, fox
    he: str
    him: str
    his: str

    @property
    def He(self) -> str:
        return self.he.capitalize()

    @property
    def His(self) -> str:
        return self.his.capitalize()


GIRLS = ("Ada", "Ella", "Ivy", "Mia", "Nora", "Rosa", "Tess", "Zoe")
BOYS = ("Ben", "Finn", "Hugo", "Leo", "Max", "Omar", "Sam", "Toby")
ANIMALS = {
    "bear": ("Bruno", "Honey"),
    "cat": ("Pepper", "Misty"),
    "dog": ("Rex", "Biscuit"),
    "duck": ("Puddle", "Daisy"),
    "fox": ("Copper", "Rusty"),
    "frog": ("Hopper", "Lily"),
    "mouse": ("Pip", "Crumb"),
    "rabbit": ("Clover", "Snowy"),
}
SHE, HE = ("she", "her", "her"), ("he", "him", "his")
GROWN_UPS = {"mom": SHE, "grandma": SHE, "aunt": SHE, "dad": HE, "grandpa": HE, "uncle": HE}
LOOKS = ("red", "blue", "green", "yellow", "old", "shiny", "soft", "tiny", "orange", "striped")
THINGS = ("ball", "kite", "drum", "hat", "boat", "book", "bell", "scarf", "spoon", "whistle", "umbrella", "puzzle")
PLACES = {
    "park": ("bench", "slide", "swing"),
    "garden": ("rose bush", "bucket", "apple tree"),
    "beach": ("big rock", "towel", "sand castle"),
    "forest": ("log", "oak tree", "pile of leaves"),
    "farm": ("barn", "wagon", "stack of hay"),
    "kitchen": ("table", "basket", "stove"),
    "attic": ("chest", "lamp", "heap of boxes"),
}
OPEN = ("park", "beach", "farm")  # one is at them, not in them
FOODS = ("cake", "soup", "bread", "pie", "salad", "jam")
SEEDS = ("sunflower", "pumpkin", "carrot", "bean", "tomato", "strawberry")
FEARS = {
    "the dark": "the moon made the walls look silver",
    "thunder": "the rain sang on the roof",
    "deep water": "the water held {hero.him} up like a big hand",
    "the tall slide": "the wind tickled {hero.his} nose all the way down",
    "the loud train": "the driver waved and rang a small bell",
    "the big dog next door": "the dog licked {hero.his} hand and rolled on its back",
}
HOMES = ("river", "hill", "sea", "forest", "road", "lake")
WHEN = ("One day", "One morning", "One afternoon", "One sunny day", "One windy day", "After lunch one day")
BEGIN = (
    "Once upon a time there was a little {hero.kind} named {hero.name}.",
    "There once was a {trait} {hero.kind} whose name was {hero.name}.",
    "{hero.name} was a {trait} little {hero.kind}.",
    "In a small house by the {home} lived a {hero.kind} named {hero.name}.",
)
TRAITS = ("kind", "curious", "shy", "cheerful", "clever", "brave", "sleepy", "busy")
# each plot is a list of moments, each told in one of several ways
PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "lost": (
        (
            "{hero.He} had {a_thing} and took it everywhere.",
            "{hero.His} favorite toy was {a_thing}.",
            "More than anything {hero.he} loved {hero.his} {thing}.",
        ),
        (
            "{when} {hero.he} played {at}, and when it was time to go, the {item} was gone.",
            "{when} {hero.name} went to the {place}. {hero.He} looked into {hero.his} bag, but there was no {item}.",
            "{when} {hero.he} took the {item} to the {place}, fell asleep there, and woke up without it.",
        ),
        (
            '"Where is my {item}?" {hero.he} cried.',
            "{hero.name} felt very sad and began to cry.",
            '"Oh no," said {hero.name}. "I have lost my {item}!"',
        ),
        (
            "{friend.name} the {friend.kind} heard {hero.him} and came to help.",
            "Just then {friend.name} the {friend.kind} walked by and asked what was wrong.",
            '{hero.His} friend {friend.name} came by. "Do not cry," said {friend.name}. "Let us look together."',
        ),
        (
            "They looked under the {spot} and behind the {other_spot}, but they found nothing.",
            "First they looked behind the {spot}. Nothing was there. Then they looked under the {other_spot}. Nothing.",
            '"I will look by the {spot}," said {friend.name}, "and you by the {other_spot}." They found only dust.',
        ),
        (
            "At last {friend.name} pointed at the {last_spot}. There was the {thing}!",
            "Something {look} was sticking out from behind the {last_spot}. It was the {item}!",
            'Then {friend.name} looked near the {last_spot}. "Here it is!" {friend.he} shouted.',
        ),
        (
            "{hero.name} hugged {friend.name}. From that day on {hero.he} always put the {item} back in its place.",
            '"Thank you, {friend.name}," said {hero.name}. They played with the {item} until the sun went down.',
            "{hero.name} danced with joy. A good friend, {hero.he} thought, is better than any {item}.",
        ),
    ),
    "share": (
        (
            "{when} {hero.his} {adult} made {food}, and {hero.name} took the biggest piece to the {place}.",
            "{when} {hero.name} sat {at} with a big plate of {food}.",
            "{when} {hero.name} had so much {food} that {hero.he} could hardly carry it to the {place}.",
        ),
        (
            "{friend.name} the {friend.kind} sat there too, with nothing to eat.",
            "Soon {friend.name} came by, and {friend.his} tummy made a loud noise.",
            "{friend.name} the {friend.kind} came closer. {friend.He} had not eaten all day.",
        ),
        (
            '"May I have some {food}?" asked {friend.name}. "No," said {hero.name}. "It is all mine."',
            '"Your {food} smells so good," said {friend.name}. {hero.name} turned away and ate alone.',
            '"Is that {food}?" asked {friend.name}. {hero.name} held the plate tight. "Mine!" {hero.he} said.',
        ),
        (
            "{friend.name} looked at the ground and said nothing. Then {hero.name} did not like the {food} any more.",
            "{friend.name} walked away slowly. {hero.name} watched {friend.him} go and felt bad.",
            "A tear ran down the face of {friend.name}. {hero.name} saw it and stopped eating.",
        ),
        (
            '"Wait, {friend.name}!" {hero.he} called. "I am sorry. Let us share it."',
            '{hero.He} cut the {food} into two parts. "This one is for you," {hero.he} said.',
            'Then {hero.he} pushed the plate over. "Take as much as you like," {hero.he} said.',
        ),
        (
            "They ate together and laughed. The {food} tasted better than before.",
            "{friend.name} smiled, and {hero.name} smiled too. Eating together was more fun.",
            "Soon the plate was empty, and two friends lay by the {spot} and looked at the clouds.",
        ),
        (
            "{hero.name} learned that sharing makes two people happy.",
            "After that, {hero.name} always brought enough for two.",
            "The next day {friend.name} brought {food} for {hero.name}.",
        ),
    ),
    "brave": (
        (
            "{hero.He} was afraid of {fear}.",
            "There was only one thing that {hero.he} did not like: {fear}.",
            "{hero.He} could run and climb and swim, but {fear} made {hero.him} cold all over.",
        ),
        (
            '{when} {friend.name} laughed and said, "Are you still afraid of {fear}?" {hero.name} ran home.',
            "{when} all the others were happy, but {hero.name} hid behind the {spot} because of {fear}.",
            "{when} it was there again, and {hero.name} crept under a blanket and did not come out.",
        ),
        (
            '{hero.His} {adult} sat down next to {hero.him}. "What is wrong?" {adult_he} asked.',
            '"Why are you hiding?" asked {hero.his} {adult}.',
            "{hero.His} {adult} found {hero.him} and gave {hero.him} a long hug.",
        ),
        (
            '"I am not brave," said {hero.name}. "I am scared of {fear}."',
            '"I am too small," said {hero.name}, "and {fear} makes me shake."',
            '"It is {fear}," {hero.name} whispered. "Please do not laugh at me."',
        ),
        (
            '"I was afraid of {fear} too when I was small," said {hero.his} {adult}. "Let us look at it together."',
            '"Being brave is not the same as having no fear," said {hero.his} {adult}. "Take my hand."',
            '{hero.His} {adult} gave {hero.him} {a_thing}. "Hold this," {adult_he} said, "and count to three."',
        ),
        (
            "{hero.name} counted one, two, three, and opened {hero.his} eyes: {surprise}.",
            "So {hero.he} took a deep breath and tried. And look, {surprise}.",
            "{hero.name} made one small step, then one more. Then something happened: {surprise}.",
        ),
        (
            '"That was not so bad," said {hero.name}, and {hero.he} was never afraid of {fear} again.',
            '"Again!" said {hero.name}. {hero.His} {adult} laughed and was very proud.',
            "That night {hero.name} told {friend.name} about it. {friend.name} said that {hero.he} was a hero.",
        ),
    ),
    "make": (
        (
            "{when} {hero.name} wanted to make {food} for {hero.his} {adult}.",
            "It was the birthday of {hero.his} {adult}, and {hero.name} wanted to make {food} all alone.",
            "{hero.His} {adult} was ill in bed. {when} {hero.name} began to make {food} to cheer up the house.",
        ),
        (
            "{hero.He} used too much salt, and the {food} tasted awful.",
            "{hero.He} forgot the time, and the {food} turned black.",
            "{hero.He} dropped the bowl, and there was {food} on the floor, the walls and {hero.his} nose.",
        ),
        (
            "{hero.name} wanted to give up.",
            "{hero.name} sat down under the {spot} and did not know what to do.",
            '"I cannot do it," {hero.he} said, and a tear fell on the table.',
        ),
        (
            '{friend.name} the {friend.kind} looked in. "Try again," {friend.he} said. "I will help you."',
            '"Everybody makes mistakes," said {hero.his} friend {friend.name}. "Let us try once more."',
            "But {friend.name} the {friend.kind} had seen it all and rolled up {friend.his} sleeves.",
        ),
        (
            "This time {friend.name} read the words and {hero.name} used a small spoon.",
            "They worked slowly. {friend.name} watched the clock and {hero.name} stirred.",
            "They washed everything, counted each spoon, and tasted it before they went on.",
        ),
        (
            "When {hero.his} {adult} came home, the {food} stood on the table next to {a_thing}.",
            "The new {food} was warm and smelled wonderful.",
            "In the evening they carried the {food} in, and {friend.name} sang a song.",
        ),
        (
            '"This is the best {food} in the world," said {hero.his} {adult}, and gave both of them a hug.',
            "{hero.name} learned that you can try again when something goes wrong.",
            "There was enough {food} for all three, and nobody left a crumb.",
        ),
    ),
    "warned": (
        (
            '"Do not play with the {thing} {at}," said {hero.his} {adult}.',
            "{hero.His} {adult} had {a_thing} that nobody was allowed to touch.",
            "On a shelf lay {a_thing} of {hero.his} {adult}. {hero.name} had promised to leave it alone.",
        ),
        (
            "But {when_later} {hero.name} was alone, and {hero.he} took the {item}.",
            "{hero.name} waited until {hero.his} {adult} was away. Then {hero.he} took the {item} to the {place}.",
            '"Only for a minute," {hero.name} said to {friend.name}, and carried the {item} to the {place}.',
        ),
        (
            "{hero.He} ran and jumped, and then there was a loud crack.",
            "It was fun at first. Then {hero.he} slipped and fell near the {spot}.",
            "{hero.He} threw it high into the air, once, twice, and the third time it came down on the {spot}.",
        ),
        (
            "The {item} was broken.",
            "Now the {thing} had a big hole.",
            "{hero.name} picked up the {item}. One part was in {hero.his} left hand and one in {hero.his} right.",
        ),
        (
            "{hero.name} hid the {item} behind the {other_spot}, but {hero.he} could not sleep that night.",
            'First {hero.he} wanted to say that {friend.name} had done it. "No," {hero.he} thought, "that is a lie."',
        ),
        (
            '{hero.He} went to {hero.his} {adult}. "I broke your {item}," {hero.he} said. "I am so sorry."',
            "So {hero.he} told {hero.his} {adult} everything.",
            "In the morning {hero.he} gave the pieces to {hero.his} {adult} and said that it was {hero.his} fault.",
        ),
        (
            '"Thank you for telling the truth," said {hero.his} {adult}. They mended the {item} together.',
            "{hero.His} {adult} was angry for a moment and then smiled. Telling the truth felt good.",
            '"A {item} can be mended," said {hero.his} {adult}. "I am glad that you told me."',
        ),
    ),
    "grow": (
        (
            "{when} {hero.his} {adult} gave {hero.him} a {seed} seed.",
            "{when} {hero.name} found a {seed} seed {at}.",
            '"What is this?" asked {hero.name}. "It is a {seed} seed," said {hero.his} {adult}.',
        ),
        (
            "{hero.He} put it into the ground and gave it water.",
            "{hero.He} made a small hole, put the seed in, and covered it with earth.",
            "{hero.name} planted it by the window, where the sun comes in.",
        ),
        (
            "The next day nothing had happened. The day after that, nothing.",
            '{hero.He} looked every hour. "Why does it not grow?" {hero.he} asked.',
            "A whole week went by, and there was only brown earth.",
        ),
        (
            '"You must wait," said {hero.his} {adult}. "Good things need time."',
            '"Give it water and sun," said {friend.name} the {friend.kind}, "and do not dig it up."',
            '"It is sleeping," said {friend.name} the {friend.kind}. "It will wake up when it is warm."',
        ),
        (
            "So {hero.name} waited. {hero.He} read a book, played with {hero.his} {thing}, and slept ten times.",
            "So {hero.he} gave it water each morning, and sang to it each night.",
            "{hero.name} and {friend.name} told it stories so that it would not be alone.",
        ),
        (
            "Then one morning there was something green! It grew and grew.",
            "After a week two small leaves came out of the ground.",
            "And when the rain had stopped, a green tip looked out of the earth and said hello to the sun.",
        ),
        (
            "In the summer {hero.name} and {friend.name} sat next to the big {seed} plant and were happy.",
            '"I waited, and it was worth it," said {hero.name}, and showed the {seed} plant to {friend.name}.',
            "Everybody in the house ate from the {seed} plant, and {hero.name} kept one seed for the next year.",
        ),
    ),
}
